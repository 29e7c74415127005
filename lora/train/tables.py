"""What the demo's corpus knows: facts in Chinese and English, one line each, columns cut by ``|``, items by ``;``.

Everything here was written for this corpus. It is common knowledge, kept short; no text was copied from anywhere.
"""

from __future__ import annotations

__all__ = [
    "ANIMALS", "ANTONYMS", "CAPITALS", "CITIES", "CONCEPTS", "DISHES", "FRAMES", "NOUNS", "OPINIONS", "POEMS",
    "SELF", "STORY_EN", "STORY_ZH", "TIPS",
]  # fmt: skip


def _table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


# name, country, what it is, sights, food, weather: Chinese, then English
CITIES = _table("""
北京|中国|中国的首都，也是全国的政治和文化中心|故宫;长城;天坛|北京烤鸭|春天风大，秋天最美|Beijing|China|the capital of China and the center of its politics and culture|the Forbidden City;the Great Wall;the Temple of Heaven|roast duck|Autumn is the best season there
上海|中国|中国最大的城市，也是重要的金融中心|外滩;东方明珠;豫园|小笼包|夏天炎热，冬天湿冷|Shanghai|China|the largest city of China and an important center of finance|the Bund;the Oriental Pearl Tower;Yu Garden|soup dumplings|Summers are hot and winters are damp
广州|中国|中国南方的大城市，有两千多年的历史|广州塔;陈家祠;越秀公园|早茶和点心|一年四季都很暖和|Guangzhou|China|a big city in the south of China|the Canton Tower;the Chen Clan Hall;Yuexiu Park|morning tea and dim sum|It is warm all year
成都|中国|四川省的省会，生活节奏很慢|大熊猫基地;武侯祠;锦里|火锅|冬天多云，夏天不太热|Chengdu|China|the capital of Sichuan, where life is slow|the panda base;the Wuhou Temple;Jinli Street|hot pot|Winters are cloudy
西安|中国|一座古老的城市，曾经是许多朝代的首都|兵马俑;古城墙;大雁塔|羊肉泡馍|夏天热，冬天干冷|Xi'an|China|an old city that was the capital of many dynasties|the Terracotta Army;the city wall;the Big Wild Goose Pagoda|lamb soup with bread|Winters are dry and cold
杭州|中国|浙江省的省会，以美丽的湖水闻名|西湖;灵隐寺;雷峰塔|龙井虾仁|春天多雨，风景很美|Hangzhou|China|the capital of Zhejiang, famous for its beautiful lake|West Lake;the Lingyin Temple;the Leifeng Pagoda|shrimp with green tea|Spring is rainy and beautiful
南京|中国|江苏省的省会，历史非常悠久|中山陵;夫子庙;明孝陵|盐水鸭|夏天非常炎热|Nanjing|China|the capital of Jiangsu, a city with a long history|the Sun Yat-sen Mausoleum;the Confucius Temple;the Ming Tomb|salted duck|Summers are very hot
重庆|中国|一座建在山上的城市，两条江在这里相会|洪崖洞;解放碑;长江索道|麻辣火锅|雾多，夏天很热|Chongqing|China|a city built on hills where two rivers meet|Hongya Cave;the Liberation Monument;the river cable car|spicy hot pot|There is much fog
哈尔滨|中国|中国北方的冰雪之城|冰雪大世界;中央大街;松花江|红肠|冬天非常寒冷|Harbin|China|the city of ice and snow in the north of China|the Ice and Snow World;Central Street;the Songhua River|red sausage|Winters are very cold
香港|中国|一座国际大都市，也是自由的港口|维多利亚港;太平山;迪士尼乐园|奶茶和蛋挞|夏天潮湿，冬天温和|Hong Kong|China|an international city with a free port|Victoria Harbour;the Peak;Disneyland|milk tea and egg tarts|Summers are humid
伦敦|英国|英国的首都，也是世界金融中心之一|大本钟;伦敦塔桥;大英博物馆|炸鱼和薯条|常常下雨|London|England|the capital of England and a center of finance|Big Ben;Tower Bridge;the British Museum|fish and chips|It often rains
巴黎|法国|法国的首都，被称为浪漫之都|埃菲尔铁塔;卢浮宫;塞纳河|面包和奶酪|春天温暖，冬天不太冷|Paris|France|the capital of France, called the city of love|the Eiffel Tower;the Louvre;the river Seine|bread and cheese|Spring is mild
纽约|美国|美国最大的城市，也是世界金融中心之一|自由女神像;中央公园;时代广场|汉堡和热狗|冬天下雪，夏天炎热|New York|America|the largest city of America|the Statue of Liberty;Central Park;Times Square|burgers and hot dogs|Winters bring snow
东京|日本|日本的首都，人口非常多|东京塔;浅草寺;上野公园|寿司|春天樱花盛开|Tokyo|Japan|the capital of Japan, with very many people|Tokyo Tower;the Senso Temple;Ueno Park|sushi|Cherry trees bloom in spring
罗马|意大利|意大利的首都，有很多古代建筑|斗兽场;许愿池;万神殿|披萨和意大利面|夏天阳光很好|Rome|Italy|the capital of Italy, full of ancient buildings|the Colosseum;the Trevi Fountain;the Pantheon|pizza and pasta|Summers are sunny
柏林|德国|德国的首都，以博物馆和音乐闻名|勃兰登堡门;博物馆岛;电视塔|香肠|冬天寒冷，夏天凉爽|Berlin|Germany|the capital of Germany, known for museums and music|the Brandenburg Gate;Museum Island;the TV Tower|sausages|Winters are cold
莫斯科|俄罗斯|俄罗斯的首都，也是最大的城市|红场;克里姆林宫;大剧院|红菜汤|冬天又长又冷|Moscow|Russia|the capital and the largest city of Russia|Red Square;the Kremlin;the Bolshoi Theatre|beet soup|Winters are long and cold
悉尼|澳大利亚|澳大利亚最大的城市，在海边|悉尼歌剧院;海港大桥;邦迪海滩|海鲜|夏天在十二月到二月|Sydney|Australia|the largest city of Australia, beside the sea|the Opera House;the Harbour Bridge;Bondi Beach|seafood|Summer lasts from December to February
""")

# name, ingredients, steps: Chinese, then English
DISHES = _table("""
披萨|面粉、番茄酱、奶酪和香肠|把面粉、水和酵母揉成面团;等面团发大;擀成圆饼，抹上番茄酱;放上奶酪和香肠;放进烤箱烤十五分钟|pizza|flour, tomato sauce, cheese and sausage|mix flour, water and yeast into a dough;let the dough rise;roll it flat and spread tomato sauce on it;put cheese and sausage on top;bake it for fifteen minutes
饺子|面粉、猪肉和白菜|把面粉和水揉成面团;把猪肉和白菜切碎，做成馅;擀出圆形的皮;把馅包进皮里;放进开水里煮十分钟|dumplings|flour, pork and cabbage|mix flour and water into a dough;chop the pork and the cabbage;roll out small round skins;wrap the filling in the skins;boil them for ten minutes
炒饭|米饭、鸡蛋和葱花|把鸡蛋打散;锅里放油，炒熟鸡蛋;加入米饭炒匀;放盐和酱油;撒上葱花|fried rice|rice, eggs and green onions|beat the eggs;fry the eggs in a little oil;add the rice and stir it well;add salt and soy sauce;put green onions on top
番茄炒蛋|番茄、鸡蛋和盐|把番茄切成块;把鸡蛋打散;锅里放油，先炒鸡蛋;加入番茄一起炒;放盐和一点糖|tomatoes with eggs|tomatoes, eggs and salt|cut the tomatoes into pieces;beat the eggs;fry the eggs in oil first;add the tomatoes and stir;add salt and a little sugar
红烧肉|五花肉、酱油和糖|把五花肉切成块;用开水煮一下;锅里放糖炒出颜色;放肉和酱油;小火炖一个小时|braised pork|pork belly, soy sauce and sugar|cut the pork into pieces;boil it for a short time;melt the sugar in a pan;add the pork and the soy sauce;cook it slowly for one hour
面条|面条、鸡蛋和青菜|锅里烧开水;放进面条煮五分钟;加入青菜;打一个鸡蛋;放盐和一点油|noodles|noodles, an egg and green vegetables|boil water in a pot;cook the noodles for five minutes;add the vegetables;add an egg;add salt and a little oil
蛋糕|面粉、鸡蛋、牛奶和糖|把鸡蛋和糖打匀;加入牛奶和面粉;搅拌成面糊;倒进模具;放进烤箱烤三十分钟|cake|flour, eggs, milk and sugar|beat the eggs with the sugar;add the milk and the flour;stir until it is smooth;pour it into a pan;bake it for thirty minutes
沙拉|生菜、黄瓜和番茄|把蔬菜洗干净;把黄瓜和番茄切成片;把生菜撕成小块;放进大碗;加入沙拉酱拌匀|salad|lettuce, cucumber and tomatoes|wash the vegetables;cut the cucumber and the tomatoes;tear the lettuce into small pieces;put them into a big bowl;add the dressing and mix
鸡汤|鸡肉、姜和盐|把鸡肉洗干净;用开水煮一下;换上冷水，放姜;小火炖两个小时;最后放盐|chicken soup|chicken, ginger and salt|wash the chicken;boil it for a short time;put it into cold water with ginger;cook it slowly for two hours;add salt at the end
三明治|面包、火腿、鸡蛋和生菜|把面包烤一下;煎一个鸡蛋;在面包上放生菜和火腿;放上鸡蛋;盖上另一片面包，切成两半|a sandwich|bread, ham, an egg and lettuce|toast the bread;fry an egg;put lettuce and ham on the bread;add the egg;put the other slice on top and cut it in two
""")

# name, food, home, what it is like: Chinese, then English
ANIMALS = _table("""
猫|鱼和老鼠|人的家里|安静，喜欢睡觉|cat|fish and mice|in people's homes|quiet and loves to sleep
狗|肉和骨头|人的家里|忠诚，会看家|dog|meat and bones|in people's homes|loyal and guards the house
兔子|青草和胡萝卜|草地上|耳朵很长，跑得很快|rabbit|grass and carrots|in the meadow|has long ears and runs fast
大熊猫|竹子|中国的山林里|黑白相间，非常可爱|panda|bamboo|in the mountain forests of China|black and white and very cute
老虎|肉|森林里|强壮，身上有条纹|tiger|meat|in the forest|strong and has stripes
狮子|肉|非洲的草原上|勇敢，被称为百兽之王|lion|meat|on the plains of Africa|brave and is called the king of animals
大象|树叶和水果|非洲和亚洲|身体很大，鼻子很长|elephant|leaves and fruit|in Africa and Asia|very big and has a long trunk
猴子|水果|树上|聪明，喜欢爬树|monkey|fruit|in trees|clever and likes to climb
鸟|种子和虫子|树上|有翅膀，会唱歌|bird|seeds and insects|in trees|has wings and can sing
鱼|水草|水里|没有脚，会游泳|fish|water plants|in water|has no feet and swims well
马|青草|草原上|强壮，跑得很快|horse|grass|on the plains|strong and runs fast
牛|青草|农场里|力气大，给人牛奶|cow|grass|on the farm|strong and gives milk
""")

# country, capital: Chinese, then English
CAPITALS = _table("""
中国|北京|China|Beijing
法国|巴黎|France|Paris
英国|伦敦|England|London
日本|东京|Japan|Tokyo
意大利|罗马|Italy|Rome
德国|柏林|Germany|Berlin
俄罗斯|莫斯科|Russia|Moscow
美国|华盛顿|America|Washington
西班牙|马德里|Spain|Madrid
埃及|开罗|Egypt|Cairo
韩国|首尔|Korea|Seoul
印度|新德里|India|New Delhi
""")

# name, what it is: Chinese, then English
CONCEPTS = _table("""
太阳|太阳是一颗恒星，给地球光和热|the sun|The sun is a star that gives light and heat to the earth
月亮|月亮是地球的卫星，它反射太阳的光|the moon|The moon goes around the earth and reflects the light of the sun
水|水是没有颜色、没有味道的液体，所有的生命都需要它|water|Water is a clear liquid that all life needs
彩虹|彩虹是阳光穿过雨滴时形成的七种颜色|a rainbow|A rainbow is seven colors made by sunlight in drops of rain
电脑|电脑是可以计算和保存信息的机器|a computer|A computer is a machine that counts and keeps information
互联网|互联网把全世界的电脑连在一起|the internet|The internet joins the computers of the whole world
人工智能|人工智能是让机器像人一样学习和思考的技术|artificial intelligence|Artificial intelligence lets machines learn and think like people
语言模型|语言模型是根据前面的词预测下一个词的程序|a language model|A language model is a program that predicts the next word from the words before it
图书馆|图书馆是可以借书和看书的地方|a library|A library is a place where you can read and borrow books
医生|医生是给病人看病的人|a doctor|A doctor is a person who helps sick people
老师|老师是在学校教学生知识的人|a teacher|A teacher is a person who teaches students at school
春节|春节是中国最重要的节日，全家人一起吃饺子、放鞭炮|the Spring Festival|The Spring Festival is the most important holiday in China
""")

# topic, advice: Chinese, then English
TIPS = _table("""
保持健康|每天吃水果和蔬菜;多喝水;每天运动半个小时;早睡早起;少吃糖和盐|stay healthy|eat fruit and vegetables;drink enough water;do sports every day;go to bed early;eat less sugar
学好英语|每天记十个单词;多听英语歌;多看英语书;常常和朋友说英语;不要怕说错|learn English|learn ten words a day;listen to English songs;read English books;speak with your friends;do not fear mistakes
睡得更好|晚上不要喝咖啡;睡觉前不要看手机;每天同一个时间上床;保持房间安静;睡前喝一杯热牛奶|sleep better|drink no coffee in the evening;leave your phone away;go to bed at the same time;keep the room quiet;drink a cup of warm milk
保护环境|少用塑料袋;节约用水;多坐公交车;出门时关灯;多种树|protect the environment|use fewer plastic bags;save water;take the bus;turn off the lights;plant trees
节约时间|先做重要的事情;写一个计划;少看手机;一次只做一件事;早一点开始|save time|do important things first;write a plan;look at your phone less;do one thing at a time;begin early
省钱|记下每天花的钱;在家里做饭;不买不需要的东西;每个月存一点钱;买东西前想一想|save money|write down what you spend;cook at home;buy only what you need;save a little every month;think before you buy
学习编程|先学一门简单的语言;每天写一点代码;多读别人的程序;做一个小项目;遇到错误不要着急|learn programming|begin with a simple language;write a little code every day;read the programs of others;build a small project;stay calm when there are errors
交朋友|常常微笑;认真听别人说话;帮助别人;说真话;一起做喜欢的事|make friends|smile often;listen to others;help others;tell the truth;do things together
""")

# topic, lines: Chinese, then English
POEMS = _table("""
春天|春风吹绿了柳树;小鸟在枝头歌唱;花儿红了满山坡;孩子笑着放风筝|spring|The wind is warm, the trees are green;the birds are singing in the sun;the flowers open on the hill;the children laugh and run
夏天|太阳照在荷塘上;蝉声响了一下午;西瓜又甜又清凉;晚风吹过小院子|summer|The sun is high above the pond;the air is hot and still;the melon is so cool and sweet;we rest upon the hill
秋天|黄叶飘落满小路;大雁排队向南飞;果园里面苹果红;农夫笑着收粮食|autumn|The leaves are falling red and gold;the geese are flying south;the apples shine upon the tree;the farmer smiles and nods
冬天|白雪盖住了屋顶;河水结成了冰;炉火暖了小屋;我们等着春天|winter|The snow lies white upon the roof;the river turns to ice;the fire warms our little house;we wait for spring and light
月亮|月亮弯弯像小船;静静挂在天空上;星星陪着它说话;照着我回家的路|the moon|The moon is like a little boat;it sails across the night;the stars are talking with the moon;my way is full of light
大海|大海蓝蓝望不到边;浪花一朵接一朵;海鸥飞过小白帆;我把梦想送给你|the sea|The sea is blue and has no end;the waves come one by one;a bird flies over the white sail;my dream goes with the sun
""")

# noun: Chinese, English with its article, plural or as it stands
NOUNS = _table("""
茶|tea
咖啡|coffee
牛奶|milk
水|water
苹果|apples
香蕉|bananas
米饭|rice
面条|noodles
鱼|fish
面包|bread
书|books
音乐|music
电影|movies
花|flowers
猫|cats
狗|dogs
足球|football
篮球|basketball
雨天|rainy days
夏天|summer
冬天|winter
中国|China
北京|Beijing
这座城市|this city
""")

# a frame of a sentence in both languages: with the noun in {}
FRAMES = _table("""
我喜欢{}|I like {}
他不喜欢{}|He does not like {}
我们都喜欢{}|We all like {}
你喜欢{}吗？|Do you like {}?
她很想念{}|She misses {} very much
我的妈妈喜欢{}|My mother likes {}
孩子们喜欢{}|The children like {}
我在学校谈{}|I talk about {} at school
""")

# word, its opposite: Chinese, then English
ANTONYMS = _table("""
大|小|big|small
高|低|high|low
长|短|long|short
多|少|many|few
快|慢|fast|slow
热|冷|hot|cold
新|旧|new|old
早|晚|early|late
好|坏|good|bad
黑|白|black|white
远|近|far|near
轻|重|light|heavy
开|关|open|closed
上|下|up|down
左|右|left|right
高兴|难过|happy|sad
""")

# what is judged; what good and what bad is said of it: Chinese only
OPINIONS = _table("""
这家餐厅的菜|很好吃;又新鲜又便宜;让人还想再来|太咸了;又冷又贵;让人失望
这部电影|非常精彩;很感人;值得再看一次|太长了;很无聊;浪费时间
这本书|写得很好;很有意思;让我学到很多|写得不清楚;很无聊;不值得买
这个手机|又快又好用;屏幕很漂亮;电池很耐用|总是死机;电池很差;太贵了
今天的天气|真好;晴朗又温暖;很舒服|糟透了;又冷又湿;让人难受
这家酒店|干净又安静;服务很好;离车站很近|又脏又吵;服务很差;太贵了
""")

# question; answer: Chinese, then English
SELF = _table("""
你好|你好！很高兴见到你。有什么可以帮你的吗？|Hello|Hello! Nice to meet you. How can I help you?
你是谁？|我是一个很小的语言模型，会说一点中文和英文。|Who are you?|I am a very small language model. I speak a little Chinese and English.
你会做什么？|我会介绍城市、讲故事、教你做菜、算简单的加减法，还会翻译短句。|What can you do?|I can describe cities, tell stories, give recipes, add small numbers and translate short sentences.
谢谢你|不客气！很高兴能帮到你。|Thank you|You are welcome! I am happy to help.
再见|再见！祝你一天愉快。|Goodbye|Goodbye! Have a nice day.
""")

# heroes; places; what they find; whom they meet; what happens; what is learnt
STORY_ZH = _table("""
小猫;小狗;小兔子;小熊;小鸟;小猴子;小明;小红
森林里;河边;山脚下;小村庄里;大海边;花园里
一个红苹果;一把金钥匙;一本旧书;一颗闪光的星星;一只小船;一顶蓝帽子
一只迷路的小鸭;一位老爷爷;一只受伤的小鸟;一条小鱼;一个哭泣的孩子
送它回家;帮助他找到回家的路;分给他一半食物;陪他一起等天亮;为他唱了一首歌
帮助别人会让自己快乐;勇敢的人不怕困难;朋友是最好的礼物;分享让快乐变成两份;只要努力就会成功
""")
STORY_EN = _table("""
a little cat;a little dog;a small rabbit;a young bear;a little bird;a boy named Tom;a girl named Anna;a clever fox
in the forest;by the river;at the foot of a hill;in a small village;by the sea;in a garden
a red apple;a golden key;an old book;a shining star;a small boat;a blue hat
a lost duck;an old man;a hurt bird;a little fish;a crying child
showed the way home;shared the food;waited until the morning;sang a song;gave all the help that was needed
helping others makes us happy;brave hearts are not afraid;a friend is the best gift;joy grows when it is shared;hard work brings success
""")
